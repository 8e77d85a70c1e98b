"""What a checkpoint can do: accuracy and loss on every task, and how well it still learns a new one."""
