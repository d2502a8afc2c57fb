"""What maps share: axes, image, colors, values, panels."""
