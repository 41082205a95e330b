//! Rewrites a parsed template so that every operand an operation may walk or copy is charged first
//! (see `meter`), and so that all output, slices, assignments to attributes, `+`, `*` and `~` go
//! through functions of ours. Constants are rewritten too, which keeps the compiler from folding
//! `'x' * 99999999`.

use minijinja::machinery::ast::{self, Call, CallArg, Expr, Spanned, Stmt};
use minijinja::machinery::Span;
use minijinja::Value;

// Functions under names no template can write. The first four return their argument.
/// Charges time for the value itself.
pub const WALK: &str = "\0walk";
/// Charges time for the value and all it contains.
pub const COMPARE: &str = "\0compare";
/// Charges space for the value itself.
pub const KEEP: &str = "\0keep";
/// COMPARE and KEEP.
pub const COLLECT: &str = "\0collect";
pub const ADD: &str = "\0add";
pub const MULTIPLY: &str = "\0multiply";
pub const CONCATENATE: &str = "\0concatenate";
pub const SLICE: &str = "\0slice";
pub const ASSIGN: &str = "\0assign";
const CAPTURED: &str = "\0captured";

/// The tree with its operands charged.
pub fn statement<'a>(stmt: &Stmt<'a>) -> Stmt<'a> {
    match stmt {
        Stmt::Template(s) => Stmt::Template(Spanned::new(ast::Template { children: all(&s.children) }, s.span())),
        Stmt::EmitRaw(s) => Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr: constant(s.raw, s.span()) }, s.span())),
        Stmt::EmitExpr(s) => Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr: expression(&s.expr) }, s.span())),
        Stmt::ForLoop(s) => Stmt::ForLoop(Spanned::new(for_loop(s), s.span())),
        Stmt::IfCond(s) => {
            let (true_body, false_body) = (all(&s.true_body), all(&s.false_body));
            Stmt::IfCond(Spanned::new(ast::IfCond { expr: expression(&s.expr), true_body, false_body }, s.span()))
        }
        Stmt::WithBlock(s) => {
            let assignments = s.assignments.iter().map(|(to, value)| (target(to), expression(value))).collect();
            Stmt::WithBlock(Spanned::new(ast::WithBlock { assignments, body: all(&s.body) }, s.span()))
        }
        Stmt::Set(s) => match &s.target {
            Expr::GetAttr(to) => assignment(to, expression(&s.expr)),
            to => Stmt::Set(Spanned::new(ast::Set { target: target(to), expr: expression(&s.expr) }, s.span())),
        },
        Stmt::SetBlock(s) => set_block(s),
        Stmt::AutoEscape(s) => Stmt::AutoEscape(Spanned::new(
            ast::AutoEscape { enabled: expression(&s.enabled), body: all(&s.body) },
            s.span(),
        )),
        Stmt::FilterBlock(s) => Stmt::FilterBlock(Spanned::new(
            ast::FilterBlock { filter: expression(&s.filter), body: all(&s.body) },
            s.span(),
        )),
        Stmt::Block(s) => {
            Stmt::Block(Spanned::new(ast::Block { name: s.name, required: s.required, body: all(&s.body) }, s.span()))
        }
        Stmt::Macro(s) => Stmt::Macro(macro_declaration(s)),
        Stmt::CallBlock(s) => {
            let (call, macro_decl) = (call_of(&s.call), macro_declaration(&s.macro_decl));
            Stmt::CallBlock(Spanned::new(ast::CallBlock { call, macro_decl }, s.span()))
        }
        Stmt::Do(s) => Stmt::Do(Spanned::new(ast::Do { call: call_of(&s.call) }, s.span())),
        Stmt::Continue(s) => Stmt::Continue(Spanned::new(ast::Continue, s.span())),
        Stmt::Break(s) => Stmt::Break(Spanned::new(ast::Break, s.span())),
        Stmt::Include(s) => Stmt::Include(Spanned::new(
            ast::Include { name: expression(&s.name), ignore_missing: s.ignore_missing },
            s.span(),
        )),
        // There is no other template to take anything from: as an include, this says so.
        Stmt::Import(s) => absent(&s.expr, s.span()),
        Stmt::FromImport(s) => absent(&s.expr, s.span()),
        Stmt::Extends(s) => absent(&s.name, s.span()),
    }
}

/// `{% set to.name = value %}` as something that prints nothing.
fn assignment<'a>(to: &Spanned<ast::GetAttr<'a>>, value: Expr<'a>) -> Stmt<'a> {
    let name = constant(to.name, to.span());
    let expr = call(ASSIGN, vec![expression(&to.expr), name, value], to.span());
    Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr }, to.span()))
}

fn set_block<'a>(s: &Spanned<ast::SetBlock<'a>>) -> Stmt<'a> {
    let block = |target| {
        let filter = s.filter.as_ref().map(expression);
        Stmt::SetBlock(Spanned::new(ast::SetBlock { target, filter, body: all(&s.body) }, s.span()))
    };
    let Expr::GetAttr(to) = &s.target else { return block(target(&s.target)) };
    let captured = || Expr::Var(Spanned::new(ast::Var { id: CAPTURED }, s.span()));
    let body = vec![block(captured()), assignment(to, captured())];
    Stmt::WithBlock(Spanned::new(ast::WithBlock { assignments: Vec::new(), body }, s.span()))
}

fn all<'a>(stmts: &[Stmt<'a>]) -> Vec<Stmt<'a>> {
    stmts.iter().map(statement).collect()
}

fn absent<'a>(name: &Expr<'a>, span: Span) -> Stmt<'a> {
    Stmt::Include(Spanned::new(ast::Include { name: expression(name), ignore_missing: false }, span))
}

fn for_loop<'a>(s: &ast::ForLoop<'a>) -> ast::ForLoop<'a> {
    ast::ForLoop {
        target: target(&s.target),
        // A filtered loop collects its items first.
        iter: wrapped(&s.iter, if s.filter_expr.is_some() { KEEP } else { WALK }),
        filter_expr: s.filter_expr.as_ref().map(expression),
        recursive: s.recursive,
        body: all(&s.body),
        else_body: all(&s.else_body),
    }
}

fn macro_declaration<'a>(s: &Spanned<ast::Macro<'a>>) -> Spanned<ast::Macro<'a>> {
    let args = s.args.iter().map(target).collect();
    let defaults = s.defaults.iter().map(expression).collect();
    Spanned::new(ast::Macro { name: s.name, args, defaults, body: all(&s.body) }, s.span())
}

/// What is assigned to.
fn target<'a>(expr: &Expr<'a>) -> Expr<'a> {
    match expr {
        Expr::List(s) => Expr::List(Spanned::new(ast::List { items: s.items.iter().map(target).collect() }, s.span())),
        _ => expression(expr),
    }
}

fn expression<'a>(expr: &Expr<'a>) -> Expr<'a> {
    match expr {
        Expr::Var(s) => Expr::Var(Spanned::new(ast::Var { id: s.id }, s.span())),
        Expr::Const(s) => constant(s.value.clone(), s.span()),
        Expr::Slice(s) => {
            let bound = |e: &Option<Expr<'a>>| e.as_ref().map_or_else(|| constant((), s.span()), expression);
            call(SLICE, vec![expression(&s.expr), bound(&s.start), bound(&s.stop), bound(&s.step)], s.span())
        }
        Expr::UnaryOp(s) => {
            let not = matches!(s.op, ast::UnaryOpKind::Not);
            let op = if not { ast::UnaryOpKind::Not } else { ast::UnaryOpKind::Neg };
            Expr::UnaryOp(Spanned::new(ast::UnaryOp { op, expr: expression(&s.expr) }, s.span()))
        }
        Expr::BinOp(s) => binary(s),
        Expr::Compare(s) => {
            let compared = |op: &ast::CompareOp<'a>| ast::CompareOp { op: op.op, expr: wrapped(&op.expr, COMPARE) };
            let ops = s.ops.iter().map(compared).collect();
            Expr::Compare(Spanned::new(ast::Compare { expr: wrapped(&s.expr, COMPARE), ops }, s.span()))
        }
        Expr::IfExpr(s) => {
            let (test_expr, true_expr) = (expression(&s.test_expr), expression(&s.true_expr));
            let false_expr = s.false_expr.as_ref().map(expression);
            Expr::IfExpr(Spanned::new(ast::IfExpr { test_expr, true_expr, false_expr }, s.span()))
        }
        Expr::Filter(s) => {
            let expr = s.expr.as_ref().map(|e| wrapped(e, filter_guard(s.name)));
            Expr::Filter(Spanned::new(ast::Filter { name: s.name, expr, args: arguments(&s.args) }, s.span()))
        }
        Expr::Test(s) => {
            let expr = wrapped(&s.expr, test_guard(s.name));
            Expr::Test(Spanned::new(ast::Test { name: s.name, expr, args: arguments(&s.args) }, s.span()))
        }
        Expr::GetAttr(s) => {
            Expr::GetAttr(Spanned::new(ast::GetAttr { expr: expression(&s.expr), name: s.name }, s.span()))
        }
        Expr::GetItem(s) => {
            let (expr, subscript_expr) = (wrapped(&s.expr, WALK), expression(&s.subscript_expr));
            Expr::GetItem(Spanned::new(ast::GetItem { expr, subscript_expr }, s.span()))
        }
        Expr::Call(s) => Expr::Call(call_of(s)),
        Expr::List(s) => {
            let items = s.items.iter().map(|e| wrapped(e, KEEP)).collect();
            Expr::List(Spanned::new(ast::List { items }, s.span()))
        }
        Expr::Map(s) => {
            let keys = s.keys.iter().map(|e| wrapped(e, COMPARE)).collect();
            let values = s.values.iter().map(|e| wrapped(e, KEEP)).collect();
            Expr::Map(Spanned::new(ast::Map { keys, values }, s.span()))
        }
    }
}

fn binary<'a>(s: &Spanned<ast::BinOp<'a>>) -> Expr<'a> {
    let function = match s.op {
        ast::BinOpKind::Add => ADD,
        ast::BinOpKind::Mul => MULTIPLY,
        ast::BinOpKind::Concat => CONCATENATE,
        op => {
            let logic = matches!(op, ast::BinOpKind::ScAnd | ast::BinOpKind::ScOr);
            let [left, right] = [&s.left, &s.right].map(|e| if logic { expression(e) } else { wrapped(e, COMPARE) });
            return Expr::BinOp(Spanned::new(ast::BinOp { op, left, right }, s.span()));
        }
    };
    call(function, vec![expression(&s.left), expression(&s.right)], s.span())
}

/// Filters that look into what a value contains.
fn filter_guard(name: &str) -> &'static str {
    match name {
        "sort" | "unique" | "min" | "max" | "groupby" | "dictsort" | "map" | "select" | "reject" | "selectattr"
        | "rejectattr" | "sum" => COLLECT,
        _ => KEEP,
    }
}

fn test_guard(name: &str) -> &'static str {
    match name {
        "defined" | "undefined" | "none" | "string" | "mapping" | "sequence" | "iterable" | "number" | "integer"
        | "float" | "boolean" | "true" | "false" => WALK,
        _ => COMPARE,
    }
}

fn call_of<'a>(s: &Spanned<Call<'a>>) -> Spanned<Call<'a>> {
    Spanned::new(Call { expr: expression(&s.expr), args: arguments(&s.args) }, s.span())
}

fn arguments<'a>(args: &[CallArg<'a>]) -> Vec<CallArg<'a>> {
    let charged = |arg: &CallArg<'a>| match arg {
        CallArg::Pos(e) => CallArg::Pos(wrapped(e, KEEP)),
        CallArg::Kwarg(name, e) => CallArg::Kwarg(name, wrapped(e, KEEP)),
        CallArg::PosSplat(e) => CallArg::PosSplat(wrapped(e, KEEP)),
        CallArg::KwargSplat(e) => CallArg::KwargSplat(wrapped(e, KEEP)),
    };
    args.iter().map(charged).collect()
}

/// An operand that passes through a charging function.
fn wrapped<'a>(operand: &Expr<'a>, function: &'static str) -> Expr<'a> {
    call(function, vec![expression(operand)], operand.span())
}

fn call<'a>(function: &'static str, operands: Vec<Expr<'a>>, span: Span) -> Expr<'a> {
    let name = Expr::Var(Spanned::new(ast::Var { id: function }, span));
    Expr::Call(Spanned::new(Call { expr: name, args: operands.into_iter().map(CallArg::Pos).collect() }, span))
}

fn constant<'a>(value: impl Into<Value>, span: Span) -> Expr<'a> {
    Expr::Const(Spanned::new(ast::Const { value: value.into() }, span))
}
