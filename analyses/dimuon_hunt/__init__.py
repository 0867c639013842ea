"""A hunt for resonances of two muons in any file that has them."""
