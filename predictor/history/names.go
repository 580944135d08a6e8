package history

// maxNames bounds the table of system call names. All architectures together
// have fewer; names beyond it are counted and forgotten.
const maxNames = 1 << idBits

// names numbers system call names in the order they were first seen.
type names struct {
	list []string
	ids  map[string]uint32
	lost uint64 // sightings of names the table had no room for
}

func newNames() names { return names{ids: make(map[string]uint32)} }

// id returns the number of a name and gives it one when it has none.
func (n *names) id(name string) (uint32, bool) {
	if id, ok := n.ids[name]; ok {
		return id, true
	}
	if len(n.list) == maxNames || len(name) > maxName {
		n.lost++
		return 0, false
	}
	id := uint32(len(n.list))
	n.list = append(n.list, name)
	n.ids[name] = id
	return id, true
}
