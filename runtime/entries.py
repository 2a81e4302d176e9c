"""What the configuration entries of ONNX Runtime mean here: one row for each that its programs are known to set.

An entry whose text begins with "Accepted" changes nothing, for the reason that follows. Entries that stand in no row
are kept as well; that they change nothing is said on the logger.
"""

from __future__ import annotations

__all__ = ["ACCEPTED", "RUN_ENTRIES", "SESSION_ENTRIES"]

ACCEPTED = "Accepted"
_NO_SECOND_POOL = "Accepted: a program's steps run one after another, on one pool of threads."
_NO_QUANT_STAGES = "Accepted: quantised operators are fused by passes that keep their results."
_NO_CONTEXT = "Accepted: compiled models are kept in onnxc's own cache, or as artifacts (`onnxc compile`)."
_MAPPED = "Accepted: files are mapped, and constants that need no packing are read where they lie."
_ALIAS = "Accepted: an option of the C interface; set the attribute of SessionOptions of the same meaning."

SESSION_ENTRIES: dict[str, str] = {
    "session.intra_op.allow_spinning": '"0": idle threads sleep at once.',
    "session.intra_op.spin_duration_us": "How many microseconds idle threads spin before they sleep.",
    "session.intra_op.spin_backoff_max": "Accepted: threads that spin pause evenly.",
    "session.force_spinning_stop": "Accepted: threads that have nothing to do sleep after some 50 microseconds.",
    "session.inter_op.allow_spinning": _NO_SECOND_POOL,
    "session.inter_op.spin_duration_us": _NO_SECOND_POOL,
    "session.inter_op.spin_backoff_max": _NO_SECOND_POOL,
    "session.intra_op_thread_affinities": "The processors of each thread but the caller's, counted from 1: groups "
                                          "as 1,2 or 3-4, with semicolons between them.",
    "session.dynamic_block_base": "Accepted: the parts of a loop are sized by the schedule of its kernel.",
    "session.load_model_format": '"ORT" or "ONNX": what the model is, whatever its name or content say.',
    "session.save_model_format": '"ONNX": the optimized model is written as that, whatever its name says; "ORT" is '
                                 "refused.",
    "session.model_external_initializers_file_folder_path": "Where data outside of the model lies.",
    "session.optimized_model_external_initializers_file_name": "The file beside the optimized model for its large "
                                                               "weights.",
    "session.optimized_model_external_initializers_min_size_in_bytes": "From how many bytes on a weight is large.",
    "session.disable_prepacking": '"1": weights stay as they are in the model: less memory, slower products.',
    "session.use_ort_model_bytes_directly": _MAPPED,
    "session.use_ort_model_bytes_for_initializers": _MAPPED,
    "session.use_memory_mapped_ort_model": _MAPPED,
    "session.set_denormal_as_zero": '"1": kernels take and give denormal numbers as zero.',
    "session.disable_cpu_ep_fallback": '"1": an error where nodes would run on the CPU without its being named.',
    "session.record_ep_graph_assignment_info": '"1": get_provider_graph_assignment_info tells where nodes run.',
    "session.disable_aot_function_inlining": "Accepted: functions of a model are always inlined.",
    "session.strict_shape_type_inference": "Accepted: types are exact, declared shapes are hints.",
    "session.allow_released_opsets_only": "Accepted: opsets up to 28 are read.",
    "session.disable_quant_qdq": _NO_QUANT_STAGES,
    "session.disable_qdq_constant_folding": _NO_QUANT_STAGES,
    "session.disable_double_qdq_remover": _NO_QUANT_STAGES,
    "session.enable_quant_qdq_cleanup": _NO_QUANT_STAGES,
    "session.qdqisint8allowed": _NO_QUANT_STAGES,
    "session.x64quantprecision": _NO_QUANT_STAGES,
    "optimization.disable_specified_optimizers": "Names of passes that shall not run, with commas between them: those "
                                                 "of `onnxc inspect MODEL --list`; others are ignored.",
    "optimization.enable_gelu_approximation": "Accepted: Gelu is exact to the bound of its element type.",
    "optimization.enable_cast_chain_elimination": "Accepted: casts are left out only where no result changes.",
    "optimization.minimal_build_optimizations": "Accepted: models are compiled, not converted.",
    "optimization.constant_folding_max_output_size_in_bytes": "Accepted: folding has bounds of its own.",
    "session.graph_optimizations_loop_level": "Accepted: each pass says for itself when it is done.",
    "session.use_env_allocators": "Accepted: memory is planned by the compiler.",
    "session.use_device_allocator_for_initializers": "Accepted: constants are read where they lie, or packed.",
    "session.save_external_prepacked_constant_initializers": "Accepted: artifacts hold packed constants.",
    "session.collect_node_memory_stats_to_file": "Accepted: see InferenceSession.memory() and profiles.",
    "session.max_shape_override": "Accepted: memory is taken for the shapes that come.",
    "ep.context_enable": _NO_CONTEXT,
    "ep.context_file_path": _NO_CONTEXT,
    "ep.context_embed_mode": _NO_CONTEXT,
    "ep.share_ep_contexts": _NO_CONTEXT,
    "session.disable_model_compile": _NO_CONTEXT,
    "session.fail_on_suboptimal_compiled_model": "Accepted: an artifact that this processor cannot run is refused.",
    "session.intra_op_num_threads": _ALIAS,
    "session.inter_op_num_threads": _ALIAS,
    "session.graph_optimization_level": _ALIAS,
    "session.execution_mode": _ALIAS,
}

RUN_ENTRIES: dict[str, str] = {
    "memory.enable_memory_arena_shrinkage": '"cpu:0": memory for intermediate tensors is given back after the run.',
    "disable_synchronize_execution_providers": "Accepted: a run on the CPU is done when it returns.",
    "gpu_graph_id": "Accepted: runs on the CPU are not captured.",
}
