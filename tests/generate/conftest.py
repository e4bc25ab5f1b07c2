from tests.support import missing_ops

missing_ops.substitute()
