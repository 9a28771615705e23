"""D-FINE's head (arXiv 2410.13842), which DEIM trains with other activations (arXiv 2412.04234)."""
