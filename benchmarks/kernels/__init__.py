"""Speed and memory of the kernels against the plain ways."""
