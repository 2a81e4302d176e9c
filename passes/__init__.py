"""Rewrites of the IR: the pipeline table and one file a pass. Nothing here knows a target's instructions."""
