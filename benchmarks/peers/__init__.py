"""What the project is compared with, where no library has it."""
