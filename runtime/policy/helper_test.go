package policy

func at(v Value) *Value { return &v }
