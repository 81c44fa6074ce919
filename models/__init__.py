"""What is true: the twenty-two walls as exact forward solvers."""
