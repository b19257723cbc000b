"""What `fit`, `validate`, `test` and `predict` have beside LightningCLI's own: settings and callbacks."""
