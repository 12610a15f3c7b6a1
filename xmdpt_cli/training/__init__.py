"""Training of X-MDPT. Read ``loop.train`` first, then ``trainer.Trainer.step`` and ``step``."""
