"""Where the archive's objects lie, behind one port. It sees ciphertext only and knows nothing of tables or keys."""
