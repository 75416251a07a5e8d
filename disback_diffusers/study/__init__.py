# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
