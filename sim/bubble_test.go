package sim

import (
	"context"
	"errors"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The one way into virtual time still works: an hour takes no time, errors and panics come out,
// a goroutine left behind is found and shown.
func TestVirtually(t *testing.T) {
	start := time.Now()
	var slept time.Duration
	err := virtually(func() error {
		began := time.Now()
		time.Sleep(time.Hour)
		slept = time.Since(began)
		return errors.New("as it is")
	})
	if err == nil || err.Error() != "as it is" || slept != time.Hour {
		t.Errorf("slept %v, err %v", slept, err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("an hour of virtual time took %v", took)
	}
	err = virtually(func() error { panic("at the disco") })
	if err == nil || !strings.HasPrefix(err.Error(), "panic: at the disco\n") {
		t.Errorf("a panic came out as %v", err)
	}
	err = virtually(func() error {
		go leftBehind(make(chan int))
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "deadlock") || !strings.Contains(err.Error(), "leftBehind") {
		t.Errorf("a goroutine left behind came out as %v", err)
	}
}

func leftBehind(c chan int) { <-c }

// Many bubbles one after the other, and at the same time.
func TestVirtuallyAgain(t *testing.T) {
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			errs <- virtually(func() error {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				<-ctx.Done()
				return nil
			})
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// What the code must not do to run in virtual time (DESIGN 11), as far as its text shows it: no
// channel, timer, context or goroutine belongs to a package, where two bubbles would share it.
func TestNothingBelongsToAPackage(t *testing.T) {
	forbidden := map[string]bool{
		"time.NewTimer": true, "time.NewTicker": true, "time.After": true, "time.AfterFunc": true, "time.Tick": true,
		"context.WithCancel": true, "context.WithCancelCause": true, "context.WithTimeout": true, "sync.NewCond": true,
	}
	files := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") ||
			strings.HasPrefix(path, filepath.Join("..", "cmd")) {
			return err
		}
		files++
		f, err := goparser.ParseFile(token.NewFileSet(), path, nil, goparser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			ast.Inspect(g, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncLit:
					return false // it runs later
				case *ast.ChanType:
					t.Errorf("%s: a variable of the package holds a channel", path)
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && forbidden[x.Name+"."+n.Sel.Name] {
						t.Errorf("%s: a variable of the package holds what %s.%s makes", path, x.Name, n.Sel.Name)
					}
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Fatalf("read %d files: the rule checks nothing", files)
	}
}
