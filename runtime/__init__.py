"""Running compiled programs: session, memory, devices, artifacts. Needs numpy and no compiler."""
