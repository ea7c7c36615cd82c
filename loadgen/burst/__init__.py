"""The closed loop of bursts (the paper's Figure 1): its hot loop, settings and result."""
