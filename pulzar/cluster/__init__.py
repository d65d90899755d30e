"""Many volumes and one master: who is a member, where copies go, how a log is followed."""
