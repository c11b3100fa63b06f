"""The paper's figures and tables, computed anew.

table1   what transfers cost: the paper's savings beside ours
table2   what an explanation and a mask cost in operations
scale    a figure's grid, made smaller or moved to another data set
printed  scores that the paper's text names
figures  runs in, files out
"""
