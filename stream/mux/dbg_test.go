package mux
import ("testing";"testing/synctest";"time";"fmt")
func TestDbg(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1")
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2", serveEcho(KindLink))
		ctx := within(t, time.Minute)
		c, _ := n1.Open(ctx, "n2", n2.addr, KindLink)
		fmt.Println(say(c, "before"))
		wire.setCut(func(f, to string, b []byte) bool { fmt.Printf("%v %s->%s %d %x\n", time.Now().Format("05.000"), f, to, len(b), b[:min(len(b),50)]); return false })
		start(t, wire.listen("10.0.0.2:1"), "n2", serveEcho(KindLink), func(c *Config) { c.Boot = 2 })
		n2.stop()
		fmt.Println("----")
		fmt.Println(say(c, "anybody there?"))
	})
}
