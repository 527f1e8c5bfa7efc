package gossip

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/hashicorp/memberlist"

	"weir/topology"
)

// nameOf is what memberlist calls one start of a node. It refuses a name at another address until the
// one before is dead; by id alone that would be never, since its pings over streams go by id too, and
// the new start answers them.
func nameOf(id topology.NodeID, boot uint64) string { return fmt.Sprintf("%s@%d", id, boot) }

// idOf is the id in a name.
func idOf(name string) topology.NodeID {
	id, _, _ := strings.Cut(name, "@")
	return topology.NodeID(id)
}

// delegate is what memberlist calls, mostly with its own lock held: nothing here blocks.
type delegate struct{ g *Gossip }

// NodeMeta is what this node says of itself.
func (d *delegate) NodeMeta(int) []byte {
	d.g.mu.Lock()
	m := metaOf(d.g.self, d.g.leaving)
	d.g.mu.Unlock()
	b, err := m.encode()
	if err != nil {
		panic(err) // New has checked it, and what changes since has a fixed size
	}
	return b
}

// NotifyAlive refuses members that we cannot read or that belong to another log.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	id := idOf(n.Name)
	if id == "" || len(id) > idBytesMax || strings.Contains(n.Name, "/") {
		return fmt.Errorf("its id is not 1 to %d bytes without a slash", idBytesMax)
	}
	m, err := decodeMeta(n.Meta)
	if err != nil {
		return err
	}
	if n.Name != nameOf(id, m.boot) {
		return fmt.Errorf("its name %.80q is not that of its start %d", n.Name, m.boot)
	}
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	if own := d.g.self.LogID; own != 0 && m.logID != 0 && m.logID != own {
		return fmt.Errorf("it belongs to another cluster of the same secret: log %x, ours is %x", m.logID, own)
	}
	if _, known := d.g.members[id]; !known && len(d.g.members) >= membersMax {
		return fmt.Errorf("there are %d members, the most we keep", membersMax)
	}
	return nil
}

func (d *delegate) NotifyJoin(n *memberlist.Node)   { d.note(n, StateAlive) }
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.note(n, StateAlive) }
func (d *delegate) NotifyLeave(n *memberlist.Node)  { d.note(n, StateDead) }

func (d *delegate) note(n *memberlist.Node, s State) {
	meta, err := decodeMeta(n.Meta)
	if err != nil {
		return // NotifyAlive has refused it
	}
	if s == StateDead && meta.leaving {
		s = StateLeft
	}
	d.g.set(Member{
		ID:      idOf(n.Name),
		Addr:    net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port))),
		Boot:    meta.boot,
		LogID:   meta.logID,
		Roles:   meta.roles,
		Tags:    meta.tags,
		Version: meta.version,
		Voter:   meta.voter,
		State:   s,
	})
}

// Nothing but membership is gossiped.
func (d *delegate) NotifyMsg([]byte)                {}
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (d *delegate) LocalState(bool) []byte          { return nil }
func (d *delegate) MergeRemoteState([]byte, bool)   {}
