"""What is asked: the spec, checked, with everything it points to."""
