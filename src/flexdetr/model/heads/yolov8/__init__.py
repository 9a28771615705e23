"""A dense, anchor-free head in YOLOv8's form: boxes as distributions (2006.04388), no objectness, suppression after."""
