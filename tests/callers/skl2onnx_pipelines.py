"""skl2onnx: pipelines of scikit-learn on numbers and texts, converted and run; scikit-learn's own predictions hold."""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime as ort
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = rng.normal(size=(300, 6)).astype(np.float32)
Y = X[:, 0] * X[:, 1] + X[:, 2]
TWO, THREE = (Y > 0).astype(np.int64), np.digitize(Y, [-0.5, 0.5])
NAMES = np.array(["low", "middle", "high"])[THREE]


def run(model, data, feeds, **options):
    """The outputs of the converted model by name."""
    made = to_onnx(model, data, options=options or None)
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


for y in (TWO, THREE, NAMES):
    for model in (make_pipeline(StandardScaler(), LogisticRegression()),
                  make_pipeline(MinMaxScaler(), Normalizer(), LogisticRegression()),
                  RandomForestClassifier(20, random_state=0), KNeighborsClassifier(3),
                  GradientBoostingClassifier(n_estimators=20, random_state=0)):
        model.fit(X, y)
        found = run(model, X[:1], {"X": X}, zipmap=False)
        np.testing.assert_array_equal(found["label"], model.predict(X))
        np.testing.assert_allclose(found["probabilities"], model.predict_proba(X), atol=1e-5)

for model in (LinearRegression(), make_pipeline(StandardScaler(), SVR()), GradientBoostingRegressor(random_state=0)):
    model.fit(X, Y)
    (found,) = run(model, X[:1], {"X": X}).values()
    np.testing.assert_allclose(found[:, 0], model.predict(X), atol=1e-4)

model = SVC().fit(X, THREE)
np.testing.assert_array_equal(run(model, X[:1], {"X": X}, zipmap=False)["label"], model.predict(X))

# The usual output: a list of maps from labels to probabilities.
model = LogisticRegression().fit(X, NAMES)
maps = run(model, X[:1], {"X": X})["output_probability"]
np.testing.assert_allclose([[m[c] for c in model.classes_] for m in maps], model.predict_proba(X), atol=1e-5)

# Columns of numbers and of texts.
table = np.array([["red", "green", "blue"][i] for i in rng.integers(0, 3, 300)], object)[:, None]


def rows(numbers, texts):
    return np.concatenate([numbers.astype(object), texts], 1)


columns = make_pipeline(
    ColumnTransformer([("numbers", StandardScaler(), slice(0, 6)), ("texts", OneHotEncoder(), [6])]),
    RandomForestClassifier(10, random_state=0))
columns.fit(rows(X, table), NAMES)
kinds = [("numbers", FloatTensorType([None, 6])), ("texts", StringTensorType([None, 1]))]
made = to_onnx(columns, initial_types=kinds, options={"zipmap": False})
session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
label, chances = session.run(["label", "probabilities"], {"numbers": X, "texts": table})
np.testing.assert_array_equal(label, columns.predict(rows(X, table)))
np.testing.assert_allclose(chances, columns.predict_proba(rows(X, table)), atol=1e-5)
