"""Training, evaluation, resuming: what ``train_net.py`` calls, one topic a module."""
