"""Batch jobs: one file a step, each reading artefact directories and writing one."""
