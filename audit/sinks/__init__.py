"""Where messages go: each sink posts one finished message and says what became of it."""
