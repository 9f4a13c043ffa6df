"""What the documentation is made of beside its pages: the reference, out of the code, and the arithmetic."""
