"""What tests share: fakes that stand for a real part, builders of small inputs, and contract test classes.

It is type-checked as strictly as the product. Fixtures are in the conftest files; their types come from here.
"""

from pkgutil import iter_modules

import pytest

#: `assert` statements of these modules explain a failure as those of tests do.
pytest.register_assert_rewrite(*(module.name for module in iter_modules(__path__, f"{__name__}.")))
