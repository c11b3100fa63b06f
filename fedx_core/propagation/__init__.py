"""What LRP is put together from: operations with relevance as their backward pass, and rules."""
