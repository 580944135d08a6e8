package policy

import "slices"

// Put returns e with decided in place of what e says of the same plain keys and of the same members of families.
// It shares the memory of both.
func (e Effective) Put(decided ...Field) Effective {
	if len(decided) == 0 {
		return e
	}
	plain, members := make(map[Key]bool), make(map[Key]bool)
	for _, f := range decided {
		for _, name := range f.Names {
			members[f.Key.Member(name)] = true
		}
		plain[f.Key] = f.Names == nil
	}
	var all []Field
	for _, f := range e.Fields {
		switch {
		case f.Names == nil && plain[f.Key]:
			continue
		case f.Names != nil:
			f.Names = slices.DeleteFunc(slices.Clone(f.Names), func(name string) bool { return members[f.Key.Member(name)] })
			if len(f.Names) == 0 {
				continue
			}
		}
		all = append(all, f)
	}
	for _, f := range decided {
		i := slices.IndexFunc(all, func(g Field) bool { return f.Names != nil && f.alike(&g) })
		if i < 0 {
			all = append(all, f)
			continue
		}
		all[i].Names = slices.Concat(all[i].Names, f.Names)
		slices.Sort(all[i].Names)
	}
	sortFields(all)
	return Effective{Version: EffectiveVersion, Fields: all}
}
