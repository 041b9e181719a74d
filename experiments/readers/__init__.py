"""Sources of images, a module per reader: data.reader=NAME is `load` of the module NAME.

`load(data)` returns the two parts that `data.train` and `data.val` name at `data.path`, both `Images` or both `Stream`,
and raises SettingsError, in one line, if they are not there or not what the settings or each other say.
"""
