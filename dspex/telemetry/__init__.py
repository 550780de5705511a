"""The event stream: what happened, as typed records that the event log keeps and everything else folds."""
