"""NNI model spaces over timm backbones with slots for operators."""
