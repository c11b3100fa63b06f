"""A trained model's file, and what it says of images and scenes."""
