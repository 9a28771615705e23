"""RT-DETR's head (arXiv 2304.08069) and RT-DETRv2's variants of it (arXiv 2407.17140)."""
