"""The commands of `ddim-edit`, one module each: module NAME defines the command NAME.

A trailing underscore keeps a name apart from a Python keyword, as in `import_`. Modules are found by looking into this
package, so that adding a command is adding a file.
"""
