use super::*;

#[test]
fn the_default_root_is_the_users_own_where_root_is_not_root() {
    let xdg = Some(PathBuf::from("/run/user/7"));
    let user = (PathBuf::from("/run/user/7/rrun"), true);
    let system = (PathBuf::from("/run/rrun"), false);
    assert_eq!(choose_root(true, xdg.clone()), system);
    assert_eq!(choose_root(true, None), system);
    assert_eq!(choose_root(false, xdg), user);
    assert_eq!(choose_root(false, None), system);
    assert_eq!(choose_root(false, Some("relative".into())), system);
}
