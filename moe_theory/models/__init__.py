"""What f_G is: measures, gates, experts, adapters and the regression model that combines them."""
