"""The subcommands, one a module; a new module with a `COMMAND` is found by itself."""
