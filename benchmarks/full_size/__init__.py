"""Full-size models in fake tensors: memory and work of what no machine at hand can run."""
