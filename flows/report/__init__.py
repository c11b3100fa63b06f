"""One page about one or several runs, and its figures and tables as files beside it.

gather         what there is to say of a run, read from its folder
outcome        headline numbers, accuracy, bytes, scores by class and by client
pruning        units, scores and masks
explanations   heat maps
data           what the clients hold
settings       what the runs were set to, and where they come from
parts          sections, figures and tables as values
page           sections to HTML
files          all of it to a folder
"""
