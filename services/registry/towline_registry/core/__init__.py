"""What the registry decides: pure, without input, output or clocks."""
