"""Answers one SQL question over every tier, each row once (design section 6): the fast door."""
