"""One page about one or several runs, and its figures and tables as files beside it.

gather         what there is to say of a run, read from its folder
outcome        headline numbers, accuracy and bytes
pruning        units, scores and masks
explanations   heat maps
data           what the clients hold
scores         class by class and client by client
settings       what the runs were set to, and where they come from
parts          sections, figures and tables as values
page           sections to HTML
files          all of it to a folder
"""
