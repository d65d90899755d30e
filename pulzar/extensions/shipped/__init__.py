"""The extensions that come with Pulzar. Each is a module as a user would write it."""
