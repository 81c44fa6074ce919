"""What to choose: the question, the program, the proof and the plan."""
