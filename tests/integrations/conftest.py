"""What is not run with all other tests: `nox -s ray` names this file, and has Ray."""

collect_ignore = ["test_ray.py"]
