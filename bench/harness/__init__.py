"""What every part uses: where it is measured, how it is scaled, and how its figures are told."""
