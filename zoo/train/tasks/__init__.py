"""What can be trained: one module a task, each with `main(argv) -> int`."""
