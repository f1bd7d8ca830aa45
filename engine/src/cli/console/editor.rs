//! The line editor: it reads keys when asked to, and nothing else.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use reedline::{
    ColumnarMenu, Emacs, FileBackedHistory, KeyCode, KeyModifiers, MenuBuilder as _, Prompt,
    PromptEditMode, PromptHistorySearch, Reedline, ReedlineEvent, ReedlineMenu, Signal,
    ValidationResult, Validator, default_emacs_keybindings,
};

use crate::cli::console::command::is_command;
use crate::cli::console::words::{Coloured, Completed, Words};
use crate::cli::sql::is_whole;

/// Statements that are remembered.
const HISTORY_MAX: usize = 1000;
const MENU: &str = "words";

/// What came of asking.
#[derive(Debug)]
pub(super) enum Typed {
    /// Whole statements, or a command.
    Text(String),
    /// Ctrl-C: what was typed does not count.
    LetGo,
    /// Ctrl-D.
    End,
}

/// The editor with its history.
pub(super) struct Editor(Reedline);

impl Editor {
    /// An editor; without a history that can be kept, nothing is.
    pub(super) fn new(words: &Arc<Words>, history: Option<PathBuf>, has_colours: bool) -> Self {
        let mut keys = default_emacs_keybindings();
        let complete = vec![
            ReedlineEvent::Menu(MENU.to_owned()),
            ReedlineEvent::MenuNext,
        ];
        keys.add_binding(
            KeyModifiers::NONE,
            KeyCode::Tab,
            ReedlineEvent::UntilFound(complete),
        );
        let menu = ColumnarMenu::default().with_name(MENU);
        let editor = Reedline::create()
            .with_validator(Box::new(Whole))
            .with_highlighter(Box::new(Coloured))
            .with_completer(Box::new(Completed(Arc::clone(words))))
            .with_quick_completions(true)
            .with_partial_completions(true)
            .with_menu(ReedlineMenu::EngineCompleter(Box::new(menu)))
            .with_edit_mode(Box::new(Emacs::new(keys)))
            .with_ansi_colors(has_colours);
        let history = history.and_then(|file| FileBackedHistory::with_file(HISTORY_MAX, file).ok());
        Self(match history {
            Some(history) => editor.with_history(Box::new(history)),
            None => editor,
        })
    }

    /// The next thing that is typed; waits for it on this thread.
    ///
    /// # Errors
    /// When the terminal can not be read.
    pub(super) fn read(&mut self) -> io::Result<Typed> {
        match self.0.read_line(&Ask).map_err(io::Error::other)? {
            Signal::Success(text) => {
                // Nobody is told of a history that can not be written.
                let _ = self.0.sync_history();
                Ok(Typed::Text(text))
            }
            Signal::CtrlD => Ok(Typed::End),
            _ => Ok(Typed::LetGo),
        }
    }
}

/// A line ends the text when all statements in it do.
struct Whole;

impl Validator for Whole {
    fn validate(&self, text: &str) -> ValidationResult {
        match is_command(text) || is_whole(text) {
            true => ValidationResult::Complete,
            false => ValidationResult::Incomplete,
        }
    }
}

struct Ask;

impl Prompt for Ask {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        Cow::Borrowed("millpond")
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn render_prompt_indicator(&self, _mode: PromptEditMode) -> Cow<'_, str> {
        Cow::Borrowed("> ")
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        Cow::Borrowed("     ...> ")
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        Cow::Owned(format!("(typed before: {}) ", search.term))
    }
}
