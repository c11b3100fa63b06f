"""Wire formats, one file each: tensors in, bytes out, and back."""
