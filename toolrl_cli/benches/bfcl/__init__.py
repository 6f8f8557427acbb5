"""The Berkeley Function Calling Leaderboard, graded by its own official checker."""
