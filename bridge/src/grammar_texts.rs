//! Whether any text is whole by a grammar.

use llguidance::TokenParser;

/// False only where it is sure: that the lexer may join what rules put side by side is not looked at.
/// Cost: once through the rules.
pub fn has_a_text(parser: &mut TokenParser) -> bool {
    let lexemes = parser.parser.with_recognizer(|recognizer| {
        let all = recognizer.lexer().lexer_spec().all_lexemes();
        let beginning = recognizer.lexer_mut().start_state(&all);
        recognizer.lexer().possible_lexemes(beginning).clone()
    });
    let grammar = parser.parser.grammar();
    // By symbol: those seen, which rules wait for it; by rule: whose it is, and for how many symbols it waits.
    let size = usize::from(u16::MAX) + 1;
    let (mut seen, mut whole, mut waiting) = (vec![false; size], vec![false; size], vec![Vec::new(); size]);
    let mut rules = Vec::new();
    let mut to_see = vec![grammar.start()];
    let mut ends = Vec::new();
    while let Some(symbol) = to_see.pop() {
        if std::mem::replace(&mut seen[symbol.as_index()], true) {
            continue;
        }
        let own = grammar.sym_data(symbol);
        if own.is_nullable || own.lexeme.is_some_and(|lexeme| lexemes.contains(lexeme)) {
            ends.push(symbol);
        }
        for rule in grammar.rules_of(symbol) {
            let (parts, _, _) = grammar.rule_rhs(*rule);
            parts.iter().for_each(|part| waiting[part.as_index()].push(rules.len()));
            rules.push((symbol, parts.len()));
            to_see.extend_from_slice(parts);
        }
    }
    while let Some(symbol) = ends.pop() {
        if std::mem::replace(&mut whole[symbol.as_index()], true) {
            continue;
        }
        for &rule in &waiting[symbol.as_index()] {
            let (whose, parts) = &mut rules[rule];
            *parts -= 1;
            if *parts == 0 {
                ends.push(*whose);
            }
        }
    }
    whole[grammar.start().as_index()]
}
